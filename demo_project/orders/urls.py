from django.urls import path

from orders import views

urlpatterns = [
    path("", views.storefront, name="storefront"),
    path("orders/", views.place, name="place"),
]
